"""What users of a store, a session and its state see."""
