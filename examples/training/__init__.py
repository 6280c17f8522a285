"""What every trainer here shares; it knows of no model and no data set."""
