"""E1 of PLAN.md: many small tasks, with and without GC, at every learning rate of a grid."""
