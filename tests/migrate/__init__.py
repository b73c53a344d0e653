"""Moving here from other systems: what their files hold, read by `examples/migrate`."""
