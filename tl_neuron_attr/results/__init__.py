"""Frozen data, tables and files; no model."""
