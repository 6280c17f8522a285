"""The parts that every trainer shares. They know no model, no data set and no metric by name."""
