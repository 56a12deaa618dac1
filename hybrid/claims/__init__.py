"""Claims and yes/no questions, judged by the facts in memory."""
