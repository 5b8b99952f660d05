"""Scores and the Lightning module that trains and scores a network."""
