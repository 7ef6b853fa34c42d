"""The conversion engine: tables of names, rules and their inverses.

May import: modeling/heads and below.
"""
