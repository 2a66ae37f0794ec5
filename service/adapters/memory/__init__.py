"""Everything outside of Relight, in memory: for tests and simulations. It behaves like the real rooms, without I/O."""
