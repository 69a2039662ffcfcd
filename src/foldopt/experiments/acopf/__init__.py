"""AC optimal power flow, learned end to end: arXiv 2312.17394."""
