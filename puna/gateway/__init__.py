"""Wire protocols of model endpoints, to and from the library's messages."""
