#define HQK_NAME(op) op##_portable
#include "body.h"
