"""Building blocks that several methods share; none of them knows a method."""
