"""Networks: a backbone, a head, and the normalisation of their input."""
