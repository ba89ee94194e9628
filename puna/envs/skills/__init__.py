"""Eight skills with exact answers, at levels 1 to 8: `puna env show skills`."""
