"""What a person sees: pure views of the state, and the live terminal."""
