"""Many runs of one command: their jobs, how these are started, and what became of them."""
