"""How programs run: executions, their records, the scheduler, and answers from the models."""
