#define HQK_NAME(op) op##_neon
#include "body.h"
