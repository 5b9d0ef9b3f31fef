"""What runs have shown: predictions held against what was observed, and the correction for the next plan."""
