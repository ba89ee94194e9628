"""James and Stein's estimator: many means at once, better shrunk than each by itself."""
