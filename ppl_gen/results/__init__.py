"""Results: ArviZ conversion, saving and loading, reports and their pictures."""
