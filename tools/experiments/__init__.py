"""Experiments with the digits model: what to run, running it, and the page that is made of the sidecars."""
