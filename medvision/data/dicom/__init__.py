"""DICOM files to 8-bit images, and to the group that is their patient."""
