"""Random programs with their specifications, judged by several provers and by running them."""
