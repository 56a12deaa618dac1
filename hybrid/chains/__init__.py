"""Questions over several facts: a path through the memory from a thing that the question names, each hop of which its words speak for."""
