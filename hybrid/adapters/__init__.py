"""Methods that add parameters and touch no weight: each is one file, and one line in `hybrid.editors.ADAPTERS`."""
