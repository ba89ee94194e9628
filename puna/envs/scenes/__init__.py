"""Questions about drawn pictures, judged exactly: `puna env show scenes`."""
