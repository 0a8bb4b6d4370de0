"""The one definition of every number: exact integer arithmetic, formats, tables.

Everything else in the project executes what this package defines. It needs numpy and nothing more.
"""
