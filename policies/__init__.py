"""What is decided: conflict, scope, routing. Pure functions over records; no torch, no database."""
