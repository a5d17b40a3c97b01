"""Judgement of predictions against a reference: tables and numbers only, no models and no audio."""
