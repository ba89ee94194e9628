"""User Stateful Embedding: a user's vector kept up to date from a state, not from the history."""
