"""The paper's tables and figures: what they are made of, the runs, what came out."""
