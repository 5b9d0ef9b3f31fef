"""How a run is shown: one HTML file, charts, where its time went."""
