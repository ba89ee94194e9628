"""Programs that a prover accepts, on shipped or on your own specifications: `puna env try proofs`."""
