"""The fifth guise of each incident."""
