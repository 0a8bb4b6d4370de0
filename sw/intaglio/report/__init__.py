"""What a run has shown, on one page: tables, curves, pictures, time lines."""
