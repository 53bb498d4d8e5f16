/* Version of the interface that library.py expects. */
int solver_kernels_version(void)
{
    return 7;
}
