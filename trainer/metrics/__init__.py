"""What a run writes down about itself: metrics of its steps, speed, memory, parameters that train."""
