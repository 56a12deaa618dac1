"""The scope classifier: does a stored fact govern a query? The network; the decision is in `policies.scope`."""
