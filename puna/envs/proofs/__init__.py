"""Programs that a prover accepts, on specifications of any folder: `puna env try proofs`."""
