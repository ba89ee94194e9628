"""In-process sampling, and the clients of outside endpoints."""
