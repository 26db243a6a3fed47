"""Headcount: how much of a financial-sentiment BERT can be cut, and what is really left."""
