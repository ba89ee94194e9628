"""Word problems with one exact answer, from a file or made up: `puna env show math`."""
