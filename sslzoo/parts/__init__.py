"""Building blocks that more than one method uses; they know no method."""
