"""What a run is shown with outside of rna-watch, one file each; everything is made from the journal."""
