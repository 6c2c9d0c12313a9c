"""`#include <netinet/...>`"""
