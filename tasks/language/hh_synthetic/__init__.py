"""Requests and replies, made here."""
