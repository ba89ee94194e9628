"""Research tasks: write what a repository lacks, so that its numbers come out again."""
