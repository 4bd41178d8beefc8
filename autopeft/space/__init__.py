"""Search spaces, genotypes and the named methods. Imports no torch."""
