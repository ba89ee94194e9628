"""General user vectors from behaviour logs, and the measurement report on any of them."""
