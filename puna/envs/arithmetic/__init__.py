"""Integer expressions, judged exactly: `puna env show arithmetic`."""
