"""The counterfactual model (SERAC, Mitchell et al. 2022, arXiv:2206.06520): it answers from the governing facts and nothing else."""
