"""How a policy acts: the chat a person has with it in a terminal."""
