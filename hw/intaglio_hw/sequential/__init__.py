"""The sequential accelerator: one small engine and an array datapath, for the smallest chips."""
