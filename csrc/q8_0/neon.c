#include "portable_body.h"

MATVEC(hqk_q8_0_matvec_neon)
